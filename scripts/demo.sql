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

\echo '-- Set 2 aside while a video is made; it used 1, the other one goes back.'
CREATE TABLE video (title text PRIMARY KEY, reservation_id uuid NOT NULL);
INSERT INTO video
SELECT 'intro', reservation_id
  FROM quota.reserve_quota('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', 'ai_generations', 2, p_ttl := '10 minutes')
 WHERE allowed;
SELECT o.granted, o.remaining, o.reason
  FROM video AS v, quota.settle_reservation(v.reservation_id, 1) AS o
 WHERE v.title = 'intro';

\echo '-- Give back what the video cost.'
SELECT o.granted, o.remaining
  FROM quota.get_usage_logs('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', p_kind := 'settle') AS e,
       quota.refund_quota(e.id, p_reason := 'came out blurred') AS o;

\echo '-- Several metrics, all or nothing: the answer names the one that was in the way.'
SELECT metric, allowed, remaining, reason
  FROM quota.consume_quotas('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01', '{"exports": 1, "ai_generations": 5}');

\echo '-- A gauge that follows the rows of a table.'
CREATE TABLE project (name text PRIMARY KEY, owner_id uuid NOT NULL);
CREATE TRIGGER projects_created AFTER INSERT OR UPDATE OR DELETE ON project
	FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('projects_created', 'owner_id');
INSERT INTO project (name, owner_id)
SELECT name, '5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01' FROM unnest(ARRAY['one', 'two', 'three']) AS name;
DELETE FROM project WHERE name = 'two';

\echo '-- A member of a team: its 40 of the team''s 100.'
SELECT quota.assign_plan('7ea30000-0000-4000-8000-000000000001', 'starter');
SELECT quota.set_parent('3e3be500-0000-4000-8000-000000000002', '7ea30000-0000-4000-8000-000000000001');
SELECT quota.set_limit_override('3e3be500-0000-4000-8000-000000000002', 'ai_generations', 40);
SELECT allowed, remaining, binding_user_id
  FROM quota.check_and_consume_quota('3e3be500-0000-4000-8000-000000000002', 'ai_generations', 30);

\echo '-- A soft limit: 200 scans in the plan, 5 beyond it at 60 THB; a top-up pays for them first.'
SELECT quota.load_preset('bn_aura');
SELECT quota.assign_plan('c1141c00-0000-4000-8000-000000000003', 'professional');
SELECT allowed, remaining, overage, cost, reason
  FROM quota.check_and_consume_quota('c1141c00-0000-4000-8000-000000000003', 'ai_scans', 205);
SELECT amount, unit_price, price, currency, total_available
  FROM quota.purchase_topup('c1141c00-0000-4000-8000-000000000003', 'ai_scans', 100, 'invoice-17');

\echo '-- What the user sees.'
SELECT metric, period, limit_amount, used, bonus_remaining, remaining, percent_used, severity
  FROM quota.get_user_quota_status('5f0c7c2e-0d1b-4c56-9a57-3f5d3a1c9e01');

\echo '-- Who is near a limit.'
SELECT user_id, metric, used, limit_amount, percent_used
  FROM quota.get_users_near_quota_limit(80);

\echo '-- Every counter equals the sum of its ledger: no row, no difference.'
SELECT * FROM quota.verify_ledger();
