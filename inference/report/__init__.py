"""What people look at: figures, tables and pages made of the numbers of `evaluation`."""
