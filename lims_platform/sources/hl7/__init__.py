"""HL7 v2 as a door into lab_results: messages from a drop folder or over MLLP, spooled encrypted.

Here: the delimiter grammar (``message``), OBX to rows (``results``, ``values``), the spool and the listener, the source.
Not here: keys (``privacy.sealing``), what a value means (``laboratory``).
"""
