-- Runs once, when PostgreSQL makes its data: an account of Limen that is no superuser, and its two databases.
\set password `printf %s "$POSTGRES_PASSWORD"`
CREATE ROLE limen LOGIN PASSWORD :'password';
CREATE DATABASE limen OWNER limen;
CREATE DATABASE limen_web OWNER limen;
REVOKE ALL ON DATABASE limen, limen_web FROM PUBLIC;
-- From now on nobody is a superuser by network.
ALTER ROLE CURRENT_USER PASSWORD NULL;
