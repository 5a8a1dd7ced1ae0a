"""Settings from what hospitals declare in public: closed formulas, without data and torch (docs/planning.md)."""
