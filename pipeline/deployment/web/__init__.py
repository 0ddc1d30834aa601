"""A student on one HTML page that runs in a browser, offline."""
