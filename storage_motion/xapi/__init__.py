"""What talks to xapi: sessions, tasks, metadata, xenops."""
