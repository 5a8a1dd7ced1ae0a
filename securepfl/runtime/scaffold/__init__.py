"""What `securepfl init` lays out: settings, scripts, a page for the partners, and made-up patients to try them on."""
