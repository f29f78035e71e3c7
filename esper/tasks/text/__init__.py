"""Text as data: tokenizers, corpora of several domains, and the tasks that predict the next token."""
