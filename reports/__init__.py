"""What people read about a run: model cards, tables, plots and logs."""
