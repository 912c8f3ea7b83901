"""The dossier: pages drawn from recorded facts alone."""
