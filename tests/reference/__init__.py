"""Parts of docs/operations.md that are made from what they describe: metrics, alerts, capacity."""
