/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  The extension's own tables, columns and indexes.
 *
 * Column numbers are those of sql/tables.sql; test/sql/catalog.sql compares
 * them with pg_attribute.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_CATALOG_H
#define QUOTA_CATALOG_H

typedef enum QuotaTable
{
	TABLE_METRICS,
	TABLE_METRIC_ALIASES,
	TABLE_PLANS,
	TABLE_PLAN_LIMITS,
	TABLE_SUBSCRIPTIONS,
	TABLE_LIMIT_OVERRIDES,
	TABLE_RECURRING_BONUSES,
	TABLE_USAGE_TRACKING,
	TABLE_USAGE_HISTORY,
	TABLE_USER_BONUSES,
	TABLE_USAGE_EVENTS,
	TABLE_BONUS_ALLOCATIONS,
	TABLE_QUOTA_AUDIT_LOG
} QuotaTable;
#define TABLE_COUNT		(TABLE_QUOTA_AUDIT_LOG + 1)

/* the engine only reads the tables before this one */
#define TABLE_FIRST_WRITTEN	TABLE_USAGE_TRACKING

typedef enum QuotaIndex
{
	INDEX_SUBSCRIPTIONS_PKEY,
	INDEX_SUBSCRIPTIONS_PARENT,
	INDEX_LIMIT_OVERRIDES_LOOKUP,
	INDEX_RECURRING_BONUSES_LOOKUP,
	INDEX_USAGE_TRACKING_QUOTA_LOOKUP,
	INDEX_USAGE_HISTORY_ACCOUNT,
	INDEX_USER_BONUSES_PKEY,
	INDEX_USER_BONUSES_AVAILABLE,
	INDEX_USER_BONUSES_USER,
	INDEX_USAGE_EVENTS_PKEY,
	INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP,
	INDEX_USAGE_EVENTS_REFERS_TO,
	INDEX_USAGE_EVENTS_HOLDS,
	INDEX_USAGE_EVENTS_USER,
	INDEX_BONUS_ALLOCATIONS_PKEY
} QuotaIndex;
#define INDEX_COUNT		(INDEX_BONUS_ALLOCATIONS_PKEY + 1)

enum
{
	Anum_metrics_metric = 1,
	Anum_metrics_kind,
	Natts_metrics = 10
};

enum
{
	Anum_metric_aliases_alias = 1,
	Anum_metric_aliases_metric,
	Natts_metric_aliases = Anum_metric_aliases_metric
};

enum
{
	Anum_plans_plan = 1,
	Natts_plans = 5
};

enum
{
	Anum_plan_limits_plan = 1,
	Anum_plan_limits_metric,
	Anum_plan_limits_period,
	Anum_plan_limits_limit_amount,
	Anum_plan_limits_anchor,
	Anum_plan_limits_overage_price,
	Anum_plan_limits_mode,
	Anum_plan_limits_spend_cap,
	Anum_plan_limits_repay_overage,
	Anum_plan_limits_algorithm,
	Anum_plan_limits_burst,
	Anum_plan_limits_rollover_min,
	Anum_plan_limits_rollover_max,
	Anum_plan_limits_rollover_ttl,
	Natts_plan_limits = Anum_plan_limits_rollover_ttl
};

enum
{
	Anum_subscriptions_user_id = 1,
	Anum_subscriptions_plan,
	Anum_subscriptions_anchor,
	Anum_subscriptions_time_zone,
	Anum_subscriptions_created_at,
	Anum_subscriptions_updated_at,
	Anum_subscriptions_parent,
	Anum_subscriptions_pending_plan,
	Anum_subscriptions_pending_at,
	Natts_subscriptions = 10
};

enum
{
	Anum_limit_overrides_id = 1,
	Anum_limit_overrides_user_id,
	Anum_limit_overrides_metric,
	Anum_limit_overrides_period,
	Anum_limit_overrides_limit_amount,
	Anum_limit_overrides_expires_at,
	Natts_limit_overrides = 8
};

enum
{
	Anum_recurring_bonuses_id = 1,
	Anum_recurring_bonuses_user_id,
	Anum_recurring_bonuses_metric,
	Anum_recurring_bonuses_amount,
	Anum_recurring_bonuses_period,
	Anum_recurring_bonuses_anchor,
	Anum_recurring_bonuses_accumulates,
	Anum_recurring_bonuses_priority,
	Anum_recurring_bonuses_ends_at,
	Anum_recurring_bonuses_reason,
	Natts_recurring_bonuses = 11
};

enum
{
	Anum_usage_tracking_user_id = 1,
	Anum_usage_tracking_metric,
	Anum_usage_tracking_period,
	Anum_usage_tracking_period_start,
	Anum_usage_tracking_period_end,
	Anum_usage_tracking_used,
	Anum_usage_tracking_bonus_used,
	Anum_usage_tracking_overage,
	Anum_usage_tracking_held,
	Anum_usage_tracking_anchor,
	Anum_usage_tracking_cost,
	Anum_usage_tracking_held_cost,
	Anum_usage_tracking_holds_expire_at,
	Anum_usage_tracking_rate_at,
	Anum_usage_tracking_rate_state,
	Natts_usage_tracking = Anum_usage_tracking_rate_state
};

enum
{
	Anum_usage_history_id = 1,
	Anum_usage_history_user_id,
	Anum_usage_history_metric,
	Anum_usage_history_period,
	Anum_usage_history_period_start,
	Anum_usage_history_period_end,
	Anum_usage_history_used,
	Anum_usage_history_bonus_used,
	Anum_usage_history_overage,
	Anum_usage_history_limit_amount,
	Anum_usage_history_closed_at,
	Anum_usage_history_cost,
	Anum_usage_history_held,
	Anum_usage_history_held_cost,
	Natts_usage_history = Anum_usage_history_held_cost
};

enum
{
	Anum_user_bonuses_id = 1,
	Anum_user_bonuses_user_id,
	Anum_user_bonuses_metric,
	Anum_user_bonuses_amount,
	Anum_user_bonuses_used_amount,
	Anum_user_bonuses_priority,
	Anum_user_bonuses_expires_at,
	Anum_user_bonuses_source,
	Anum_user_bonuses_reason,
	Anum_user_bonuses_granted_at,
	Anum_user_bonuses_available,
	Anum_user_bonuses_held_amount,
	Anum_user_bonuses_given_amount,
	Anum_user_bonuses_voided_at,
	Anum_user_bonuses_giftable,
	Anum_user_bonuses_unit_cost,
	Anum_user_bonuses_currency,
	Anum_user_bonuses_transaction_id,
	Natts_user_bonuses = Anum_user_bonuses_transaction_id
};

enum
{
	Anum_usage_events_id = 1,
	Anum_usage_events_user_id,
	Anum_usage_events_metric,
	Anum_usage_events_kind,
	Anum_usage_events_amount,
	Anum_usage_events_bonus_used,
	Anum_usage_events_period,
	Anum_usage_events_rate_periods,
	Anum_usage_events_key_hash,
	Anum_usage_events_outcome,
	Anum_usage_events_metadata,
	Anum_usage_events_created_at,
	Anum_usage_events_overage,
	Anum_usage_events_cost,
	Anum_usage_events_requested,
	Anum_usage_events_effective_at,
	Anum_usage_events_refers_to,
	Anum_usage_events_expires_at,
	Anum_usage_events_held,
	Anum_usage_events_held_bonus,
	Anum_usage_events_held_overage,
	Anum_usage_events_held_cost,
	Natts_usage_events = Anum_usage_events_held_cost
};

enum
{
	Anum_bonus_allocations_event_id = 1,
	Anum_bonus_allocations_bonus_id,
	Anum_bonus_allocations_amount,
	Anum_bonus_allocations_held,
	Anum_bonus_allocations_ordinal,
	Anum_bonus_allocations_expired,
	Natts_bonus_allocations = Anum_bonus_allocations_expired
};

enum
{
	Anum_quota_audit_log_id = 1,
	Anum_quota_audit_log_user_id,
	Anum_quota_audit_log_metric,
	Anum_quota_audit_log_attempted_amount,
	Anum_quota_audit_log_success,
	Anum_quota_audit_log_reason,
	Anum_quota_audit_log_plan_limit,
	Anum_quota_audit_log_current_usage,
	Anum_quota_audit_log_remaining,
	Anum_quota_audit_log_period,
	Anum_quota_audit_log_action,
	Anum_quota_audit_log_event_id,
	Anum_quota_audit_log_waited,
	Anum_quota_audit_log_actor,
	Anum_quota_audit_log_detail,
	Anum_quota_audit_log_created_at,
	Natts_quota_audit_log = Anum_quota_audit_log_created_at
};

extern void catalog_refresh(void);
extern Oid	catalog_table(QuotaTable table);
extern Oid	catalog_index(QuotaIndex index);
extern Oid	catalog_outcome_type(void);
extern int	catalog_natts(QuotaTable table);
extern uint64 catalog_limits_generation(void);
extern uint64 catalog_overrides_generation(void);
extern uint64 catalog_changes(void);
extern uint64 catalog_resets(void);

#endif							/* QUOTA_CATALOG_H */
