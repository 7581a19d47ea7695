"""The rules: one module a subject, one function a rule. Each takes a resource or a whole stack and yields what is wrong."""
