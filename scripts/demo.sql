-- The calls of the README, run by scripts/demo.
\set QUIET on
\set ON_ERROR_STOP on
\pset footer off
\pset null 'NULL'

\echo
\echo '-- Install it, and load a set of example plans.'
CREATE EXTENSION quota CASCADE;
SELECT quota.load_preset('sheenapps');

\echo '-- A user on the free plan: 10 ai_generations a month.'
SELECT quota.assign_plan('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'free');

\echo '-- One call decides and records.'
SELECT allowed, remaining, limit_amount, already_processed, reason
  FROM quota.check_and_consume_quota('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 1, 'request-1');

\echo '-- The client did not hear the answer and asks again: charged once, answered the same.'
SELECT allowed, remaining, limit_amount, already_processed, reason
  FROM quota.check_and_consume_quota('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 1, 'request-1');

\echo '-- 12 do not fit into the 9 that are left: a denial is a row too, not an error.'
SELECT allowed, remaining, limit_amount, reason, resets_at
  FROM quota.check_and_consume_quota('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 12, 'request-2');

\echo '-- Give the user 5 more; the same request now takes 9 from the plan and 3 from the bonus.'
SELECT quota.grant_bonus('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 5, p_reason := 'sorry for the outage');
SELECT allowed, remaining, bonus_used, bonus_remaining, reason
  FROM quota.check_and_consume_quota('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 12, 'request-2');

\echo '-- What the user sees.'
SELECT metric, period, limit_amount, used, bonus_remaining, remaining, percent_used, severity
  FROM quota.get_user_quota_status('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01');

\echo '-- Who is near a limit.'
SELECT user_id, metric, used, limit_amount, percent_used
  FROM quota.get_users_near_quota_limit(80);

\echo '-- Every counter equals the sum of its ledger: no row, no difference.'
SELECT * FROM quota.verify_ledger();
