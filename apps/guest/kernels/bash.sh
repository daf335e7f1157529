# Runs cells of bash in one shell that lasts. Requests come in base64, a line each, on descriptor 4; that a cell
# has ended goes out on descriptor 3. What it prints is its own.
__cells=0
printf '{"type":"ready"}\n' >&3
while IFS= read -r -u 4 __line; do
  __cells=$((__cells + 1))
  eval "$(printf %s "$__line" | base64 -d)" 3>&- 4<&-
  printf '{"type":"number_of_executions","execution_count":%s}\n{"type":"done"}\n' "$__cells" >&3
done
