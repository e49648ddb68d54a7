"""Position schemes, such as YaRN and NTK-aware scaling, and the one-line text that names each."""
