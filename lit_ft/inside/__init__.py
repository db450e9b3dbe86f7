"""What a network knows and keeps: probes, kernels, similarity of layers, forgetting, calibration."""
