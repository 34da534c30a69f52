"""Speed and memory of the method: against the network work nobody can avoid, the published way of doing it, and peers."""
