"""Where rows come from: tables, packaged assets, splits; how they become batches."""
