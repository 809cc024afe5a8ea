"""First weights from elsewhere, what is frozen of them, and heads of their own."""
