"""Models: from a name to a backbone with weights, or to a scripted double."""
