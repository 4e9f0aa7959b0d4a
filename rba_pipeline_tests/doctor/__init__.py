"""What the doctor sees, at real neighbours that are well or not."""
