"""Export of a student as one HTML page that runs in a browser, offline."""
