"""Reports about a run: model cards, tables, plots and logs."""
