"""Messages between bytes on the wire and arrays, without TensorFlow."""
