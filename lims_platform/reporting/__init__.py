"""What people look at outside SQL: charts, the Excel workbook, HTML pages, the run's summary.

Not here: any number that is not already in a table.
"""
