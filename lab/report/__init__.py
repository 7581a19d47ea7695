"""The proof: every promise of samegate measured on the rack, each with its raw samples and, where one is possible, a negative control."""
