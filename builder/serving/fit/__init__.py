"""What a profile needs on a GPU: weights, KV cache, concurrency and free memory, estimated without one."""
