"""The live dashboard: jobs in a browser while other processes run them, read from their ledgers alone."""
