-- ---------------------------------------------------------------------------
-- The consuming calls once more, in PL/pgSQL
--
-- Never installed.  It serves two ends:
--
--   oracle  It decides by the same rules on the same tables, but shares no code
--           with the library: validation, resolution of limits, period
--           arithmetic, the decision and the ledger are its own.  The regress
--           files give the same output with it, and test/sql/oracle.sql sets
--           the two side by side.
--   peer    It is what one would write without C: few statements, saved plans,
--           one row lock, and a short way through the common call.  bench/
--           compares the library with it.
--
-- Of the extension it calls quota.clock() and quota.new_id() only.  Windows of
-- other algorithms than "fixed" it counts as if they were fixed.
--
-- Locking: a call that may be granted locks its accounts FOR NO KEY UPDATE in
-- the order of their primary key, then the bonuses that it needs, and decides
-- on what statements with a younger snapshot read after that.  So it is exact
-- in READ COMMITTED; under the two higher levels a lost race raises 40001.  A
-- call that the committed state denies is denied without a lock.
--
-- The state of a subject is never changed in memory: as_at() reads it as of an
-- instant, the decision looks at it, an event says what moves, enter() moves
-- that in the tables, and the answer is read from there.
-- ---------------------------------------------------------------------------

CREATE SCHEMA quota_reference;

\ir limits.sql
\ir decision.sql
\ir ledger.sql
\ir request.sql
\ir event.sql
\ir calls.sql
