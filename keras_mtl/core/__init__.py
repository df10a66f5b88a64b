"""Machinery under the methods: checks, registry, replicas, graph partition, the training step."""
