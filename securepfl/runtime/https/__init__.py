"""Plain HTTPS: one port, mutual TLS, long polls, outbound only for hospitals."""
