"""Before and after: perplexity, retrieval and benchmarks of models under position schemes, with intervals."""
