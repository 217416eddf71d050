-- TaskFlow's two accounts in PostgreSQL. `taskflow_owner` owns the tables: migrations, backups and restores use it.
-- `taskflow_app` reads and writes rows: the services use it. Neither is a superuser, and `taskflow_app` creates nothing.
--
-- A superuser runs this in TaskFlow's database, before the first migration or any time later; repeating it does no harm.
-- It hands over tables that another account owns. The passwords are options of the session:
--   PGOPTIONS="-c taskflow.owner_password=… -c taskflow.app_password=…" \
--     psql --set ON_ERROR_STOP=1 --single-transaction --file roles.sql "$SUPERUSER_URL"
DO $$
DECLARE
  account text;
  item record;
BEGIN
  FOREACH account IN ARRAY ARRAY['taskflow_owner', 'taskflow_app'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = account) THEN
      EXECUTE format('CREATE ROLE %I', account);
    END IF;
    EXECUTE format(
      'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD %L',
      account, current_setting(replace(account, 'taskflow_', 'taskflow.') || '_password')
    );
  END LOOP;

  -- Everything that migrations and restores create from now on.
  ALTER DEFAULT PRIVILEGES FOR ROLE taskflow_owner GRANT USAGE ON SCHEMAS TO taskflow_app;
  ALTER DEFAULT PRIVILEGES FOR ROLE taskflow_owner
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO taskflow_app;
  ALTER DEFAULT PRIVILEGES FOR ROLE taskflow_owner GRANT USAGE, SELECT ON SEQUENCES TO taskflow_app;

  -- What a single account created before there were two. Sequences of identity columns follow their tables.
  FOR item IN SELECT nspname FROM pg_namespace WHERE nspname IN ('platform', 'auth', 'task', 'notification') LOOP
    EXECUTE format('ALTER SCHEMA %I OWNER TO taskflow_owner', item.nspname);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO taskflow_app', item.nspname);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO taskflow_app', item.nspname);
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %I TO taskflow_app', item.nspname);
  END LOOP;
  FOR item IN
    SELECT schemaname, tablename FROM pg_tables
    WHERE schemaname IN ('platform', 'auth', 'task', 'notification')
      OR (schemaname, tablename) = ('public', 'alembic_version')
  LOOP
    EXECUTE format('ALTER TABLE %I.%I OWNER TO taskflow_owner', item.schemaname, item.tablename);
  END LOOP;
  IF to_regclass('public.alembic_version') IS NOT NULL THEN
    GRANT SELECT ON public.alembic_version TO taskflow_app;
  END IF;

  -- By default anybody who can log in may connect, and create temporary tables.
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO taskflow_app', current_database());
  EXECUTE format('ALTER DATABASE %I OWNER TO taskflow_owner', current_database());
END
$$;
