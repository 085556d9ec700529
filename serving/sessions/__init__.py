"""Running a loaded model: TensorFlow and TFLite sessions, and batching in front of them."""
