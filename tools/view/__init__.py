"""What a set contains, as tables, cards and contact sheets."""
