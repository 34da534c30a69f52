"""Identity of components over the snapshots of a run, and components that the whole probe shares."""
