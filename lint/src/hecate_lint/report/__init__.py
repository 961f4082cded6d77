"""The four forms of a report: text, json, sarif, github."""
