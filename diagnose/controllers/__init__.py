"""What starts, stops and finds servers again."""
