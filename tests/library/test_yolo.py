"""C2TSSA inside YOLO11: built at every scale, registered without side effects, weights carried over."""
