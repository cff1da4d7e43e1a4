"""What is measured, a file a subject. Each prints its own tables; nothing is asserted."""
