"""Class-incremental streams: classes come in groups, one group after the other, and all are asked for."""
