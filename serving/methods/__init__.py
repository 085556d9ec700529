"""What the services' methods answer, however a question arrives."""
