"""Speed and memory of the method, against the work nobody can avoid, the published way of doing it, and peers."""
