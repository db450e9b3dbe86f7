"""Where rows come from: tables, packaged assets, splits."""
