"""What Argo CD sees of both kinds."""
