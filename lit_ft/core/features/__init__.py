"""What a network has learned: probes, neighbours, kernels, calibration."""
