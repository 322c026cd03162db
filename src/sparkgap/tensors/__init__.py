"""The crossing between Arrow columns and tensors: specs, decoders, encoders. No Spark, no framework."""
