"""Block operations: numerical programs on the columns of a table, by row and by block, with reductions."""
