"""Memory: the ledger, blobs and tables behind the ports."""
