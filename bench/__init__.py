"""`make bench`: samegate measured side by side with what one would use instead. docs/bench/README.md is the page that it writes."""
