-- The same with pgTAP at hand.
\ir engine.sql
CREATE EXTENSION pgtap SCHEMA public;
