"""Where rows come from: sources, packed samples, decoded images, the views drawn of them."""
