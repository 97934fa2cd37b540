CREATE DATABASE limen_web OWNER limen;
