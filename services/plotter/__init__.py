"""The face: a live graph in a window, or a picture in a file. It only listens."""
