"""Which versions of which models are served: configuration, watching, loading, swapping."""
